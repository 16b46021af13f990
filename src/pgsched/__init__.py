"""pgsched: a durable task scheduler in your own Postgres."""
