module github.com/seed-2e639f12/tether/bench

go 1.25.0

require github.com/seed-2e639f12/tether v0.0.0

require (
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/sync v0.22.0 // indirect
)

replace github.com/seed-2e639f12/tether => ../
