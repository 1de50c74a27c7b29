"""What bench/server.py needs in processes of their own: the client and an engine that only waits."""
