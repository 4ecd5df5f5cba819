"""What a run of many images would take, computed from measured figures. It reads the config and starts nothing."""
