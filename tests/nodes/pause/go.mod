module osworld.dev/testcluster/pause

go 1.24.0
