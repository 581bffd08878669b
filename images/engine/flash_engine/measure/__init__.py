"""flash-measure: a user's command in the gate's container, which orders a measurement and prints its figures."""
