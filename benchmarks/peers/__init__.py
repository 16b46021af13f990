"""pgsched side by side with others that keep their jobs in Postgres."""
