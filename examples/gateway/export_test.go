package main

// Tour prints what the gateway prints when it is started without a flag.
var Tour = tour
