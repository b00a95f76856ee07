module github.com/seed-2e639f12/tether/durable/rabbitmq

go 1.26.0

require (
	github.com/rabbitmq/amqp091-go v1.16.0
	github.com/seed-2e639f12/tether v0.0.0
	github.com/seed-2e639f12/tether/durable v0.0.0
	github.com/stretchr/testify v1.12.1
)

require (
	go.uber.org/goleak v1.3.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.22.0 // indirect
)

replace github.com/seed-2e639f12/tether => ../..

replace github.com/seed-2e639f12/tether/durable => ..
