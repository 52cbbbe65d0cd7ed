"""OpenC2 stateless packet filtering (slpf) for oc2d."""
