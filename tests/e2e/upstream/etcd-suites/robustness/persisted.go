// Package robustness runs etcd's robustness tests against a store whose log cannot be read.
package robustness

import (
	"fmt"
	"sort"

	"github.com/anishathalye/porcupine"

	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
)

// A request that a client made, and what it was told.
type request struct {
	model.EtcdRequest
	response model.MaybeEtcdResponse
	call     int64
	used     bool
}

func requestOf(op porcupine.Operation) *request {
	return &request{
		EtcdRequest: op.Input.(model.EtcdRequest),
		response:    op.Output.(model.MaybeEtcdResponse),
		call:        op.Call,
	}
}

// What watches showed of one revision, and when they first did.
type change struct {
	events map[string]model.WatchEvent
	shown  int64
}

// persistedRequests says which requests the store carried out, and in which order. etcd's own runner reads that from the
// write-ahead log; ours is sealed. Each answer tells its revision and watches show what every revision changed, so the
// requests can be put in order by what clients saw: the one that was answered with a revision made it, or else one that was
// not answered and makes exactly the change that was seen.
func persistedRequests(reports []report.ClientReport) ([]model.EtcdRequest, error) {
	answered := map[int64][]*request{}
	var unanswered []*request
	last := int64(1)
	for _, client := range reports {
		for _, op := range client.KeyValue {
			r := requestOf(op)
			if r.IsRead() || r.response.ClientError != "" {
				continue
			}
			if r.response.Error != "" {
				unanswered = append(unanswered, r)
				continue
			}
			answered[r.response.Revision] = append(answered[r.response.Revision], r)
			last = max(last, r.response.Revision)
		}
	}
	sort.SliceStable(unanswered, func(i, j int) bool { return unanswered[i].call < unanswered[j].call })
	changes := changesSeen(reports)

	var requests []model.EtcdRequest
	state, err := model.NewReplay(nil).StateForRevision(1)
	if err != nil {
		return nil, err
	}
	carryOut := func(r *request) {
		r.used = true
		requests = append(requests, r.EtcdRequest)
		state, _ = state.Step(r.EtcdRequest)
	}
	for revision := int64(1); revision <= last; revision++ {
		if revision > 1 {
			made := maker(state, answered[revision], changes[revision])
			if made == nil {
				made = maker(state, unanswered, changes[revision])
			}
			if made == nil {
				return nil, fmt.Errorf("no request makes revision %d: seen %+v, answered %d", revision,
					changes[revision].events, len(answered[revision]))
			}
			carryOut(made)
		}
		// What was answered with this revision and changes nothing: leases, compactions, conditions that did not hold.
		for _, r := range answered[revision] {
			if after, _ := state.Step(r.EtcdRequest); !r.used && after.Revision == revision {
				carryOut(r)
			}
		}
	}
	return requests, nil
}

// maker is the first of the requests that leads to the next revision with the change that was seen.
func maker(state model.EtcdState, requests []*request, seen change) *request {
	for _, r := range requests {
		isLate := r.response.Error != "" && (seen.events == nil || r.call > seen.shown)
		if r.used || isLate {
			continue
		}
		after, _ := state.Step(r.EtcdRequest)
		if after.Revision == state.Revision+1 && (seen.events == nil || changesAs(state, after, seen.events)) {
			return r
		}
	}
	return nil
}

func changesAs(before, after model.EtcdState, events map[string]model.WatchEvent) bool {
	for key, event := range events {
		value, isThere := after.KeyValues[key]
		if isThere != (event.Type == model.PutOperation) {
			return false
		}
		if isThere && (value.Value != event.Value || value.ModRevision != event.Revision) {
			return false
		}
	}
	changed := 0
	for key, value := range after.KeyValues {
		if before.KeyValues[key] != value {
			changed++
		}
	}
	for key := range before.KeyValues {
		if _, isThere := after.KeyValues[key]; !isThere {
			changed++
		}
	}
	return changed == len(events)
}

// changesSeen gathers what the watches of all keys showed; those of a prefix see a part only.
func changesSeen(reports []report.ClientReport) map[int64]change {
	changes := map[int64]change{}
	for _, client := range reports {
		for _, watch := range client.Watch {
			if watch.Request.Key != "" {
				continue
			}
			for _, response := range watch.Responses {
				for _, event := range response.Events {
					seen, isThere := changes[event.Revision]
					if !isThere {
						seen = change{map[string]model.WatchEvent{}, response.Time.Nanoseconds()}
					}
					seen.events[event.Key] = event
					seen.shown = min(seen.shown, response.Time.Nanoseconds())
					changes[event.Revision] = seen
				}
			}
		}
	}
	return changes
}
