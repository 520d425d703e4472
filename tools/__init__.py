"""What `./run test` and `./run shake` put around pytest."""
