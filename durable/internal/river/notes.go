package river

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/riverqueue/river"
)

// What this package writes into a job's metadata. Presence.Rescue and Presence.Count write by
// SQL, under the same names.
const (
	notePardoned = "tether_pardoned" // crashes that do not count
	noteCrashed  = "tether_crashed"  // the attempt that was never answered, if it was the last one
	noteCounted  = "tether_counted"  // the attempt for which Delivery.Count was called
	noteDead     = "tether_dead"     // the attempt that was the last one
	noteTimed    = "tether_timed"    // on jobs with a RunAt
	noteAttempt  = "tether_attempt"  // of an outcome; keeper reads and removes it
)

type notes struct {
	Pardoned int `json:"tether_pardoned"`
	Crashed  int `json:"tether_crashed"`
	Dead     int `json:"tether_dead"`
}

// notesOf reads a job's metadata, in which anything may be.
func notesOf(metadata []byte) (n notes) {
	if !bytes.Contains(metadata, []byte(`"tether_`)) {
		return n // as always, without a crash
	}
	if json.Unmarshal(metadata, &n) != nil {
		return notes{}
	}
	return n
}

// note makes River store a value in the job's metadata together with the attempt's outcome.
func note(ctx context.Context, key string, value int) {
	_ = river.MetadataSet(ctx, key, value) // it fails outside of a worker, that is, in a test
}

// attemptOf takes the attempt from the metadata that come with an outcome; 0 if there is none.
func attemptOf(metadata []byte) (attempt int, rest []byte) {
	if only, ok := bytes.CutPrefix(metadata, []byte(`{"`+noteAttempt+`":`)); ok {
		// as always: it is the only one
		digits, _ := bytes.CutSuffix(only, []byte("}"))
		if n, err := strconv.Atoi(string(digits)); err == nil && n > 0 {
			return n, nil
		}
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(metadata, &all) != nil || json.Unmarshal(all[noteAttempt], &attempt) != nil {
		return 0, metadata
	}
	delete(all, noteAttempt)
	if len(all) == 0 {
		return attempt, nil
	}
	rest, err := json.Marshal(all)
	if err != nil {
		return 0, metadata
	}
	return attempt, rest
}

// errNotMine is the error of an attempt that another worker has taken over, or a later
// attempt of this one.
var errNotMine = errors.New("durable: the job is no longer this worker's: it was taken over")
