"""What several sources share: walking folders and archives, reading tables of records."""
