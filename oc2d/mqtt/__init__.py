"""The transfer: topics, properties, TLS, session. The only importer of paho."""
