package rabbitmq

import (
	"crypto/rand"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Headers of ours. Those of the broker begin with x-.
const (
	headUsed     = "tether-used"     // attempts that are over; the broker counts the deliveries since then
	headPardoned = "tether-pardoned" // the number of them that ended in a crash that does not count
	headCrashed  = "tether-crashed"  // set if the last one ended in a crash
	headCounted  = "tether-counted"  // set on a copy that runs: if it is delivered, that attempt ended in a crash, and counts
	headDue      = "tether-due"      // when the job may start, in Unix milliseconds
	headSlack    = "tether-slack"    // by how many milliseconds it may start later
	headError    = "tether-error"    // of a dead letter: why
	headDied     = "tether-died"     // of a dead letter: when, RFC 3339
	headAttempt  = "tether-attempt"  // of a dead letter: in which attempt
)

// parcel is a job on its way between queues: a copy of the message, never the message itself.
type parcel struct {
	id       string
	body     []byte
	foreign  amqp.Table // headers that are neither ours nor the broker's
	used     int        // attempts
	pardoned int
	crashed  bool
	counted  bool
	due      time.Time // zero means now
	slack    time.Duration
}

// opened reads a delivery. The broker counts the deliveries of a copy that were not answered
// (x-delivery-count).
func opened(d amqp.Delivery) parcel {
	unanswered := int(max(0, number(d.Headers["x-delivery-count"])))
	p := parcel{
		id: d.MessageId, body: d.Body,
		used:     int(max(0, number(d.Headers[headUsed]))) + unanswered,
		pardoned: int(max(0, number(d.Headers[headPardoned]))) + unanswered,
		crashed:  unanswered > 0 || number(d.Headers[headCrashed]) != 0,
		slack:    time.Duration(number(d.Headers[headSlack])) * time.Millisecond,
	}
	if number(d.Headers[headCounted]) != 0 {
		p.used, p.crashed = p.used+1, true
	}
	if due := number(d.Headers[headDue]); due != 0 {
		p.due = time.UnixMilli(due)
	}
	for name, value := range d.Headers {
		if !strings.HasPrefix(name, "x-") && !strings.HasPrefix(name, "tether-") {
			if p.foreign == nil {
				p.foreign = make(amqp.Table)
			}
			p.foreign[name] = value
		}
	}
	return p
}

// number returns the value of an integer header of any size, or 0 if it is not an integer.
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

// answered makes p the copy of a job that was answered, and is delivered again after wait.
func (p *parcel) answered(wait time.Duration) {
	p.crashed, p.counted = false, false
	p.due, p.slack = time.Time{}, 0
	if wait > 0 {
		p.dueAt(time.Now().Add(wait))
	}
}

// dueAt makes the job wait until t, rounded up to a whole millisecond.
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
	if p.pardoned > 0 {
		headers[headPardoned] = int64(p.pardoned)
	}
	if p.crashed {
		headers[headCrashed] = int64(1)
	}
	if p.counted {
		headers[headCounted] = int64(1)
	}
	if !p.due.IsZero() {
		headers[headDue], headers[headSlack] = p.due.UnixMilli(), p.slack.Milliseconds()
	}
	return p.with(headers)
}

// errorKept is the number of bytes of an error's text that a dead letter keeps: headers must
// fit into a frame.
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
