module nbtrain.test/pause

go 1.25.0
