package rabbitmq

import (
	"crypto/rand"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Headers of ours. Those of the broker begin with x-.
const (
	headUsed    = "tether-used"    // attempts that are over; the broker counts since then
	headDue     = "tether-due"     // when the job may start, in Unix milliseconds
	headSlack   = "tether-slack"   // and by how many milliseconds later
	headError   = "tether-error"   // of a dead letter: why
	headDied    = "tether-died"    // when, RFC 3339
	headAttempt = "tether-attempt" // and in which attempt
)

// parcel is a job as it travels between queues: each has a copy, never the message itself.
type parcel struct {
	id      string
	body    []byte
	foreign amqp.Table // headers that are neither ours nor the broker's, for whoever has set them
	used    int        // attempts
	due     time.Time  // zero: now
	slack   time.Duration
}

// opened reads a delivery. Its attempts are those that the copy says, and those since
// then that the broker says were not answered.
func opened(d amqp.Delivery) parcel {
	p := parcel{
		id: d.MessageId, body: d.Body, foreign: make(amqp.Table),
		used:  int(max(0, number(d.Headers[headUsed])) + max(0, number(d.Headers["x-delivery-count"]))),
		slack: time.Duration(number(d.Headers[headSlack])) * time.Millisecond,
	}
	if due := number(d.Headers[headDue]); due != 0 {
		p.due = time.UnixMilli(due)
	}
	for name, value := range d.Headers {
		if !strings.HasPrefix(name, "x-") && !strings.HasPrefix(name, "tether-") {
			p.foreign[name] = value
		}
	}
	return p
}

// number returns an integer header, 0 if it is none: brokers and clients choose its size.
func number(header any) int64 {
	switch n := header.(type) {
	case int:
		return int64(n)
	case int8:
		return int64(n)
	case uint8:
		return int64(n)
	case int16:
		return int64(n)
	case uint16:
		return int64(n)
	case int32:
		return int64(n)
	case uint32:
		return int64(n)
	case int64:
		return n
	}
	return 0
}

// after has the job wait, 0 for not at all.
func (p *parcel) after(wait time.Duration) {
	p.due, p.slack = time.Time{}, 0
	if wait > 0 {
		p.dueAt(time.Now().Add(wait))
	}
}

// dueAt has the job wait until t, in whole milliseconds that do not come before it.
func (p *parcel) dueAt(t time.Time) {
	p.due = time.UnixMilli(t.Add(time.Millisecond - 1).UnixMilli())
	p.slack = slackOf(time.Until(t))
}

// publishing returns the copy that is a job.
func (p *parcel) publishing() amqp.Publishing {
	headers := amqp.Table{}
	if p.used > 0 {
		headers[headUsed] = int64(p.used)
	}
	if !p.due.IsZero() {
		headers[headDue], headers[headSlack] = p.due.UnixMilli(), p.slack.Milliseconds()
	}
	return p.with(headers)
}

// errorKept is how much of an error's text a dead letter has: headers must fit into a frame.
const errorKept = 4 << 10

// dead returns the copy that is a dead letter.
func (p *parcel) dead(why error, attempt int) amqp.Publishing {
	text := "unknown"
	if why != nil {
		text = why.Error()
	}
	return p.with(amqp.Table{
		headError:   strings.ToValidUTF8(text[:min(len(text), errorKept)], ""),
		headDied:    time.Now().UTC().Format(time.RFC3339Nano),
		headAttempt: int64(attempt),
	})
}

func (p *parcel) with(headers amqp.Table) amqp.Publishing {
	for name, value := range p.foreign {
		headers[name] = value
	}
	id := p.id
	if id == "" {
		id = rand.Text() // a message that is returned is known by it
	}
	return amqp.Publishing{
		MessageId: id, Headers: headers, ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: p.body,
	}
}
