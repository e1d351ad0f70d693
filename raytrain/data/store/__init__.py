"""The dataset on storage: arrays by content address, snapshots, manifests."""
