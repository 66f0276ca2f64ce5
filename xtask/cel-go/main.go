// Records what the published CEL libraries of Kubernetes make of a list of expressions: the errors of compilation, the
// type, the value or the error of evaluation and its cost. The answers are one JSON object a line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

type record struct {
	Expression string  `json:"expression"`
	Compile    string  `json:"compile,omitempty"`
	Type       string  `json:"type,omitempty"`
	Estimate   string  `json:"estimate,omitempty"`
	Program    string  `json:"program,omitempty"`
	Value      string  `json:"value,omitempty"`
	Error      string  `json:"error,omitempty"`
	Cost       *uint64 `json:"cost,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	base := environment.MustBaseEnvSet(version.MajorMinor(1, 33), true)
	userType := declareUser()
	set, err := base.Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions: []cel.EnvOption{
			cel.Variable("claims", cel.MapType(cel.StringType, cel.AnyType)),
			cel.Variable("user", userType.CelType()),
			cel.Variable("object", cel.DynType),
			cel.Variable("x", cel.IntType),
			cel.Variable("u", cel.UintType),
			cel.Variable("f", cel.DoubleType),
			cel.Variable("b", cel.BoolType),
			cel.Variable("s", cel.StringType),
			cel.Variable("d", cel.DynType),
			cel.Variable("l", cel.ListType(cel.IntType)),
			cel.Variable("ls", cel.ListType(cel.StringType)),
			cel.Variable("m", cel.MapType(cel.StringType, cel.IntType)),
			cel.Variable("ts", cel.TimestampType),
			cel.Variable("dur", cel.DurationType),
			cel.Variable("opt", cel.OptionalType(cel.IntType)),
			cel.Variable("authorizer", library.AuthorizerType),
		},
		DeclTypes: []*apiservercel.DeclType{userType},
	})
	if err != nil {
		return err
	}
	env, err := set.Env(environment.StoredExpressions)
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for in.Scan() {
		line := in.Text()
		if strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "## ") {
			continue
		}
		text := strings.ReplaceAll(strings.ReplaceAll(line, "⏎", "\n"), "∅", "")
		if err := out.Encode(one(env, text)); err != nil {
			return err
		}
	}
	return in.Err()
}

func declareUser() *apiservercel.DeclType {
	strs := apiservercel.NewListType(apiservercel.StringType, -1)
	field := func(name string, t *apiservercel.DeclType) *apiservercel.DeclField {
		return apiservercel.NewDeclField(name, t, false, nil, nil)
	}
	return apiservercel.NewObjectType("kubernetes.UserInfo", map[string]*apiservercel.DeclField{
		"username": field("username", apiservercel.StringType),
		"uid":      field("uid", apiservercel.StringType),
		"groups":   field("groups", strs),
		"extra":    field("extra", apiservercel.NewMapType(apiservercel.StringType, strs, -1)),
	})
}

func one(env *cel.Env, text string) (r record) {
	r.Expression = text
	// The published validator panics on an optional element of type dyn.
	defer func() {
		if fault := recover(); fault != nil {
			r.Compile = fmt.Sprint("panic: ", fault)
		}
	}()
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		r.Compile = issues.String()
		return r
	}
	r.Type = ast.OutputType().String()
	if estimate, err := env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: &sizes{}}); err == nil {
		r.Estimate = fmt.Sprintf("%d..%d", estimate.Min, estimate.Max)
	} else {
		r.Estimate = err.Error()
	}
	program, err := env.Program(ast)
	if err != nil {
		r.Program = err.Error()
		return r
	}
	value, details, err := program.ContextEval(context.Background(), variables())
	if details != nil {
		r.Cost = details.ActualCost()
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Value = show(value)
	return r
}

// No sizes are known of the variables.
type sizes struct{}

func (*sizes) EstimateSize(checker.AstNode) *checker.SizeEstimate { return nil }
func (*sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

type fake struct{}

func (fake) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	fieldSelector, _ := a.GetFieldSelector()
	labelSelector, _ := a.GetLabelSelector()
	asked := fmt.Sprintf("%s %s %s/%s/%s/%s/%s %d %d %s", a.GetUser().GetName(), a.GetVerb(), a.GetAPIGroup(), a.GetResource(),
		a.GetSubresource(), a.GetNamespace(), a.GetName(), len(fieldSelector), len(labelSelector), a.GetPath())
	switch a.GetVerb() {
	case "get":
		return authorizer.DecisionAllow, asked, nil
	case "fail":
		return authorizer.DecisionNoOpinion, asked, errors.New("it failed")
	}
	return authorizer.DecisionNoOpinion, asked, nil
}

func variables() map[string]any {
	return map[string]any{
		"claims": map[string]any{
			"sub": "alice", "exp": int64(1700000000), "ratio": 0.5, "email_verified": false, "none": nil, "which": "sub",
			"groups": []any{"admin", "dev"},
			"nested": map[string]any{"deep": []any{map[string]any{"name": "first"}, map[string]any{"name": "second"}}},
		},
		"user": map[string]any{
			"username": "bob", "uid": "u-1", "groups": []any{"dev", "system:authenticated"},
			"extra": map[string]any{"scopes": []any{"read"}},
		},
		"object": map[string]any{
			"metadata": map[string]any{"name": "web", "labels": map[string]any{"app": "web"}},
			"spec":     map[string]any{"replicas": int64(3)},
			"list":     []any{map[string]any{"name": "a", "value": int64(1)}, map[string]any{"value": int64(2)}},
		},
		"x": int64(5), "u": uint64(7), "f": 2.5, "b": true, "s": "hello world, this is a longer text", "d": nil,
		"l": []int64{1, 2, 3}, "ls": []string{"a", "b"}, "m": map[string]int64{"a": 1, "b": 2},
		"ts":         time.Date(2020, 1, 2, 3, 4, 5, 678000000, time.UTC),
		"dur":        90 * time.Minute,
		"opt":        types.OptionalOf(types.Int(1)),
		"authorizer": library.NewAuthorizerVal(&user.DefaultInfo{Name: "bob"}, fake{}),
	}
}

func show(v ref.Val) string {
	switch t := v.(type) {
	case types.Null:
		return "null"
	case types.Bool:
		return strconv.FormatBool(bool(t))
	case types.Int:
		return strconv.FormatInt(int64(t), 10)
	case types.Uint:
		return strconv.FormatUint(uint64(t), 10) + "u"
	case types.Double:
		if math.IsInf(float64(t), 0) || math.IsNaN(float64(t)) {
			return fmt.Sprint(float64(t))
		}
		return "double " + strconv.FormatFloat(float64(t), 'g', -1, 64)
	case types.String:
		return quote(string(t))
	case types.Bytes:
		return fmt.Sprintf("b'%x'", []byte(t))
	case types.Timestamp:
		return "timestamp " + t.Format(time.RFC3339Nano)
	case types.Duration:
		return fmt.Sprintf("duration %d", int64(t.Duration))
	case *types.Type:
		return "type " + t.TypeName()
	case *types.Optional:
		if !t.HasValue() {
			return "optional.none()"
		}
		return "optional(" + show(t.GetValue()) + ")"
	case traits.Lister:
		var items []string
		for it := t.Iterator(); it.HasNext() == types.True; {
			items = append(items, show(it.Next()))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case traits.Mapper:
		var items []string
		for it := t.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			items = append(items, show(key)+": "+show(t.Get(key)))
		}
		sort.Strings(items)
		return "{" + strings.Join(items, ", ") + "}"
	}
	name := v.Type().TypeName()
	if native, err := v.ConvertToNative(stringType); err == nil {
		return name + " " + fmt.Sprint(native)
	}
	if format, ok := v.(apiservercel.Format); ok {
		return name + " " + format.Name
	}
	return name
}

func quote(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(b.String(), "\n")
}

var stringType = reflect.TypeOf("")
