"""OpenC2 v1.0, pure: types, messages, JSON and CBOR. No I/O, no clock."""
