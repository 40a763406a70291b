"""Any training of a person's own, judged without and with SE."""
