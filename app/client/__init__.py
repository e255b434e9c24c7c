"""Programs' side of the REST API: a thin client, simulated raters, and the loop that proves the product."""
