// Package tetherprom shows the tasks of package tether to Prometheus.
//
//	metrics := tetherprom.New(tetherprom.Config{})
//	reg := tether.New(tether.Config{Observer: metrics})
//	metrics.Watch(reg)
//	prometheus.MustRegister(metrics)
//
// [Metrics] reads the counts from the registry at each scrape: they cost a task
// nothing, and a scrape does not look at the live tasks. As an observer it takes each
// task's times when the task ends. See [tether.JoinObservers] for a registry that has
// another observer too. A Grafana dashboard of all this is in dashboard.json.
//
// Read at each scrape, of each pool; pool="" are the tasks that run on the registry
// itself, which Prometheus stores as no label:
//
//	tether_ready                                 1, or 0 once the registry is stopping
//	tether_tasks_submitted_total{pool}           tasks admitted
//	tether_tasks_refused_total{pool}             submissions that returned an error
//	tether_tasks_ended_total{pool,state}         succeeded, failed, panicked, canceled, dropped
//	tether_tasks_live{pool,state}                held, queued, running
//	tether_pool_workers_limit{pool}              PoolConfig.Workers, or as resized
//	tether_pool_inline_tasks{pool}               running tasks that take no worker
//	tether_pool_queue_limit{pool}                PoolConfig.Queue; +Inf if it is Unbounded
//	tether_pool_weight{pool}                     of the running tasks, if there is a Capacity
//	tether_pool_weight_limit{pool}               PoolConfig.Capacity, if there is one
//	tether_pool_paused{pool}                     1 or 0
//
// Counted when a task ends, if it has started, and 0 from the first start of a task of
// that name on that pool:
//
//	tether_task_wait_seconds{task,pool}          histogram: from submission to the first start
//	tether_task_run_seconds{task,pool,state}     histogram: from the first start to the end
//	tether_task_retries_total{task,pool}         attempts after the first
//
// And when a task is found to be stuck, see [tether.Config]:
//
//	tether_tasks_stuck_total{task,pool}
//
// # What can be relied on
//
// At each scrape, and for each pool,
//
//	tether_tasks_submitted_total == the sum of tether_tasks_ended_total and tether_tasks_live
//
// and no counter goes back. A pool's counts are of one instant, as are those of each
// of the queues that the registry has for its own tasks, which are pool="".
//
// rate and increase show nothing of what a counter has at its first scrape. Those of a
// task begin with the first start of one of its name on the pool: a first panic is shown
// if there was a scrape between that start and the panic. tether_tasks_ended_total
// begins with the pool: it has those that were too quick as well.
//
// While a worker of a pool is free, tasks that are held, delayed or between attempts
// wait in its place: held and queued ones may then be more than tether_pool_queue_limit.
//
// The task label has at most [Config].MaxNames values, those that came first, and
// [Other] for all further names; a task that is really called so is counted with those,
// and is none of the MaxNames. The histograms have thus at most (MaxNames + 1) * 5
// series for each pool, of 21 values each: each name has 5 on each pool that it has
// run on.
//
// # Several registries
//
// Registries to be told apart need metrics of their own, registered with a label by
// [prometheus.WrapRegistererWith]. Registries that the same metrics watch are added up,
// pools of one name too; tether_ready is 0 then if any of them is stopping, and
// tether_pool_paused 1 if any of the pools is paused.
package tetherprom
