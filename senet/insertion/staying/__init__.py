"""Keep SE where it was inserted, whatever other tools do to the network, and warn when that is impossible."""
