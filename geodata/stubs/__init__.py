"""Stand-ins for the services that imagery comes from: they speak their protocols on this machine and serve the synthetic Earth."""
