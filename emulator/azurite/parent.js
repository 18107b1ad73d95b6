// Loaded before Azurite: ends the process when standard input ends, that is when whoever started it is gone, however it went.
process.stdin.on("end", () => process.exit(0)).resume();
