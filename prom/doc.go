// Package tetherprom exports the tasks of package tether as Prometheus metrics.
//
//	metrics := tetherprom.New(tetherprom.Config{})
//	reg := tether.New(tether.Config{Observer: metrics})
//	metrics.Watch(reg)
//	prometheus.MustRegister(metrics)
//
// [Metrics] reads the counts of a registry at each scrape. They cost a task nothing, and
// a scrape does not visit the live tasks. As an observer, Metrics records the times of
// each task when the task ends. Use [tether.JoinObservers] if the registry has another
// observer too. The file dashboard.json is a Grafana dashboard for these metrics.
//
// # Metrics by pool
//
// These are read at each scrape. Tasks that run on the registry itself have pool="", which
// Prometheus stores as no label:
//
//	tether_ready                                  1, or 0 once the registry is stopping
//	tether_tasks_submitted_total{pool}            tasks admitted
//	tether_tasks_refused_total{pool}              submissions that returned an error
//	tether_tasks_ended_total{pool,state}          succeeded, failed, panicked, canceled, dropped
//	tether_tasks_live{pool,state}                 held, queued, running
//	tether_pool_workers_limit{pool}               PoolConfig.Workers, or as resized
//	tether_pool_inline_tasks{pool}                running tasks that take no worker
//	tether_pool_queue_limit{pool}                 PoolConfig.Queue; +Inf if it is Unbounded
//	tether_pool_overdue_total{pool}               dropped or canceled by MaxWait; in tether_tasks_ended_total too
//	tether_pool_weight{pool}                      of the running tasks, if there is a Capacity
//	tether_pool_weight_limit{pool}                PoolConfig.Capacity, if there is one
//	tether_pool_paused{pool}                      1 or 0
//
// This one is recorded when a task that has started ends:
//
//	tether_tasks_wait_seconds{pool}               histogram: from submission to the first start
//
// # Metrics by share
//
// These are read at each scrape if [Config].Shares is set:
//
//	tether_pool_shares{pool}                      shares that have live tasks
//	tether_pool_share_tasks{pool,share,state}     queued: they wait for a worker; running: by a worker
//
// The share label has the keys of the [Config].Shares shares with the most tasks queued, and
// [Other] for all further shares together. A share with the key "other" is counted with
// those. Tasks without a share have share="", which Prometheus stores as no label. A pool
// may have no tether_pool_share_tasks until it has had a task with a share. Tasks that are
// held, delayed or between attempts are not in it, nor are those that their submitters run.
// A scrape visits all shares that have live tasks: 100,000 take it about 0.1 s.
//
// # Metrics by task name
//
// These are counted as it happens. They exist, with the value 0, from the first start or
// drop of a task of that name on that pool:
//
//	tether_task_run_seconds{task,pool}            histogram: from the first start to the end
//	tether_task_outcomes_total{task,pool,state}   succeeded, failed, panicked, canceled, dropped
//	tether_task_retries_total{task,pool}          failed attempts that another one follows
//	tether_task_stuck_total{task,pool}            tasks that were found to be stuck
//
// # Number of series
//
// A name costs 23 series for each pool that its tasks have run on: 16 of the histogram
// (13 buckets, +Inf, the sum and the count), 5 outcomes, the retries and the stuck tasks.
// A pool costs 31 to 33 series: 16 of the histogram, 11 counts and 4 to 6 settings. With
// [Config].Buckets, a histogram has 3 series more than there are buckets.
//
// With [Config].Shares, a pool has at each scrape at most 2 * (Shares + 2) + 1 series more:
// two for each of these shares, for [Other] and for the tasks without a share, and the
// number of shares. Which shares are the largest changes from scrape to scrape, so that
// Prometheus stores, over the time that it retains, the series of each share that was one
// of them.
//
// The task label has at most [Config].MaxNames values, in the order of their first
// start, and [Other] for all further names. A task with the name "other" is counted with those.
// All metrics by name have thus at most (MaxNames + 1) * 23 series for each pool.
//
// # Guarantees
//
// At each scrape, and for each pool,
//
//	tether_tasks_submitted_total == the sum of tether_tasks_ended_total and tether_tasks_live
//
// and no counter decreases. The counts of a pool are a consistent snapshot, as are those
// of each of the queues that the registry has for its own tasks, which are pool="". The
// counts of a pool's shares are a snapshot of their own.
//
// The functions rate and increase do not show what a counter has at its first scrape. The
// counters of a task name begin with the first start on the pool: its first panic is shown
// if there was a scrape between that start and the panic. tether_tasks_ended_total begins
// with the pool, and has every failure.
//
// While a worker of a pool is free, tasks that are held, delayed or between attempts wait
// in its place: more tasks than tether_pool_queue_limit may then be held or queued.
//
// # Several registries
//
// To tell registries apart, make Metrics for each and register them with a label by
// [prometheus.WrapRegistererWith]. The counts of several registries that the same Metrics
// watch are added up, and so are those of pools with the same name; tether_ready is then
// 0 if any of the registries is stopping, and tether_pool_paused 1 if any of the pools is
// paused.
package tetherprom
