"""What keeps text, files and addresses of strangers from doing harm: shown text, folders, YAML, and where the hub is."""
