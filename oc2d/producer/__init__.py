"""oc2ctl: the Producer."""
