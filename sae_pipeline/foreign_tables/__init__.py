"""Results from elsewhere: any table of SAEs and metrics is read, told what it allows, and given the same findings and report as a study."""
