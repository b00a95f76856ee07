module github.com/seed-2e639f12/tether/bench/engines

go 1.26.0

require (
	github.com/hibiken/asynq v0.26.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/rabbitmq/amqp091-go v1.16.0
	github.com/riverqueue/river v0.51.2
	github.com/riverqueue/river/riverdriver v0.51.2
	github.com/riverqueue/river/riverdriver/riverpgxv5 v0.51.2
	github.com/riverqueue/river/riverdriver/riversqlite v0.51.2
	github.com/seed-2e639f12/tether v0.0.0
	github.com/seed-2e639f12/tether/bench v0.0.0
	github.com/seed-2e639f12/tether/durable v0.0.0
	github.com/seed-2e639f12/tether/durable/postgres v0.0.0
	github.com/seed-2e639f12/tether/durable/rabbitmq v0.0.0
	github.com/seed-2e639f12/tether/durable/redis v0.0.0
	github.com/seed-2e639f12/tether/durable/sqlite v0.0.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/dgryski/go-rendezvous v0.0.0-20200823014737-9f7001d12a5f // indirect
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
	github.com/ncruces/go-strftime v1.0.0 // indirect
	github.com/redis/go-redis/v9 v9.14.1 // indirect
	github.com/remyoudompheng/bigfft v0.0.0-20230129092748-24d4a6f8daec // indirect
	github.com/riverqueue/river/rivershared v0.51.2 // indirect
	github.com/riverqueue/river/rivertype v0.51.2 // indirect
	github.com/robfig/cron/v3 v3.0.1 // indirect
	github.com/seed-2e639f12/tether/durable/internal/river v0.0.0 // indirect
	github.com/spf13/cast v1.10.0 // indirect
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.2.0 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	golang.org/x/time v0.14.0 // indirect
	google.golang.org/protobuf v1.36.10 // indirect
	modernc.org/libc v1.77.1 // indirect
	modernc.org/mathutil v1.7.1 // indirect
	modernc.org/memory v1.12.1 // indirect
	modernc.org/sqlite v1.60.1 // indirect
)

replace (
	github.com/seed-2e639f12/tether => ../..
	github.com/seed-2e639f12/tether/bench => ..
	github.com/seed-2e639f12/tether/durable => ../../durable
	github.com/seed-2e639f12/tether/durable/internal/river => ../../durable/internal/river
	github.com/seed-2e639f12/tether/durable/postgres => ../../durable/postgres
	github.com/seed-2e639f12/tether/durable/rabbitmq => ../../durable/rabbitmq
	github.com/seed-2e639f12/tether/durable/redis => ../../durable/redis
	github.com/seed-2e639f12/tether/durable/sqlite => ../../durable/sqlite
)
