/* The limit: an echo that answers a fixed 200, with libmosquitto instead of Python.
 *
 * cc -O2 -o echo echo.c -lmosquitto && ./echo PORT
 */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdlib.h>
#include <string.h>

static const char ANSWER[] =
    "{\"headers\":{\"from\":\"echo\"},\"body\":{\"openc2\":{\"response\":{\"status\":200}}}}";
static mosquitto_property *properties;

static void connected(struct mosquitto *client, void *data, int reason)
{
    (void)data;
    (void)reason;
    mosquitto_subscribe(client, NULL, "oc2/cmd/device/c", 1);
}

static void received(struct mosquitto *client, void *data, const struct mosquitto_message *message,
                     const mosquitto_property *theirs)
{
    (void)data;
    (void)message;
    (void)theirs;
    mosquitto_publish_v5(client, NULL, "oc2/rsp", sizeof ANSWER - 1, ANSWER, 1, false, properties);
}

int main(int count, char **arguments)
{
    if (count != 2)
        return 2;
    mosquitto_lib_init();
    mosquitto_property_add_byte(&properties, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR, 1);
    mosquitto_property_add_string(&properties, MQTT_PROP_CONTENT_TYPE, "application/openc2");
    mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, "msgType", "rsp");
    mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, "encoding", "json");

    struct mosquitto *client = mosquitto_new("echo-c", true, NULL);
    mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1);
    mosquitto_int_option(client, MOSQ_OPT_SEND_MAXIMUM, 65535);
    mosquitto_int_option(client, MOSQ_OPT_RECEIVE_MAXIMUM, 65535);
    mosquitto_connect_callback_set(client, connected);
    mosquitto_message_v5_callback_set(client, received);
    if (mosquitto_connect(client, "127.0.0.1", atoi(arguments[1]), 300) != MOSQ_ERR_SUCCESS)
        return 1;
    return mosquitto_loop_forever(client, -1, 1);
}
