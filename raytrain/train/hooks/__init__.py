"""What is done now and then while a run goes on."""
