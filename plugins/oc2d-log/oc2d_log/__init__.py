"""A logging stand-in for OpenC2 actuator profiles."""
