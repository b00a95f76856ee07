package rabbitmq

// Tag returns the tag of the only consumer of an engine.
func Tag(e *Engine) (tag string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.consumers {
		tag = c.tag
	}
	return tag
}
