"""What bundles are made from: one file a kind, which reads the runs that become one."""
