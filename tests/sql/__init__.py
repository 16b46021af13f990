"""The SQL functions, tested as SQL on a real server."""
