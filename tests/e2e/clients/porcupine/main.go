// porcupine judges a history of one store, as tests/e2e/tests/e2e/history records it: one operation a line, in JSON, on
// standard input. It searches, with the checker of github.com/anishathalye/porcupine, for an order of the operations that
// one store can have carried out one by one, each between its call and its answer.
//
// It prints "linearizable" or "not linearizable" and how many operations it judged.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

// An operation, and what its client was told. A write that was never answered has no end; Revision is then where a watch
// showed it.
type operation struct {
	Key      string
	Began    int64
	Ended    *int64
	Put      *uint64
	Revision int64
	Found    *entry
}

// What a key holds, and since which revision.
type entry struct {
	Value    uint64
	Revision int64
}

// The whole store. A new one is at revision 1, and each write makes the next.
type store struct {
	revision int64
	keys     map[string]entry
}

func step(state, input, _ any) (bool, any) {
	before, op := state.(store), input.(operation)
	if op.Put == nil {
		found, isThere := before.keys[op.Key]
		fits := op.Revision == before.revision && isThere == (op.Found != nil)
		return fits && (!isThere || found == *op.Found), before
	}
	if op.Revision != before.revision+1 {
		return false, before
	}
	after := store{op.Revision, maps.Clone(before.keys)}
	after.keys[op.Key] = entry{*op.Put, op.Revision}
	return true, after
}

func main() {
	var history []porcupine.Operation
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			fmt.Fprintf(os.Stderr, "line %d: %v\n", len(history)+1, err)
			os.Exit(2)
		}
		ended := int64(math.MaxInt64)
		if op.Ended != nil {
			ended = *op.Ended
		}
		history = append(history, porcupine.Operation{Input: op, Call: op.Began, Return: ended})
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	model := porcupine.Model{
		Init: func() any { return store{1, map[string]entry{}} },
		Step: step,
		Equal: func(a, b any) bool {
			return a.(store).revision == b.(store).revision && maps.Equal(a.(store).keys, b.(store).keys)
		},
	}
	verdict := map[porcupine.CheckResult]string{
		porcupine.Ok: "linearizable", porcupine.Illegal: "not linearizable", porcupine.Unknown: "too long to tell",
	}[porcupine.CheckOperationsTimeout(model, history, 2*time.Minute)]
	fmt.Printf("%s: %d operations\n", verdict, len(history))
}
