"""What is on the ground: grids, sensors, sources, sampling, composing, shards. No torch, no Ray, no Prefect here."""
