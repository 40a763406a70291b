"""How SE stays where it was put, whatever other tools do to the network: and who is told when it cannot."""
