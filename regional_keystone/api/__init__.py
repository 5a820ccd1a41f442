"""Identity v3 as tables of shapes; one file per domain of the API."""
