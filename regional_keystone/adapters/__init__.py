"""One file per engine behind the ports; only `wiring` names them."""
