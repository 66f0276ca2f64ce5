package robustness

import (
	"context"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/tests/v3/framework"
	"go.etcd.io/etcd/tests/v3/framework/e2e"
	"go.etcd.io/etcd/tests/v3/robustness/client"
	"go.etcd.io/etcd/tests/v3/robustness/failpoint"
	"go.etcd.io/etcd/tests/v3/robustness/identity"
	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
	"go.etcd.io/etcd/tests/v3/robustness/scenarios"
	"go.etcd.io/etcd/tests/v3/robustness/traffic"
	"go.etcd.io/etcd/tests/v3/robustness/validate"
)

// Faults that need no hooks inside the binary. Each is tried in each scenario where it is possible; etcd's own runner picks
// one at random.
var faults = []failpoint.Failpoint{
	failpoint.KillFailpoint,
	failpoint.BlackholePeerNetwork,
	failpoint.BlackholeUntilSnapshot,
	failpoint.DelayPeerNetwork,
	failpoint.DropPeerNetwork,
	failpoint.MemberReplace,
}

func TestMain(m *testing.M) {
	framework.E2eTestRunner.TestMain(m)
}

func TestRobustnessExploratory(t *testing.T) {
	framework.E2eTestRunner.BeforeTest(t)
	for _, scenario := range scenarios.Exploratory(t) {
		for _, fault := range faults {
			t.Run(scenario.Name+"/"+fault.Name(), func(t *testing.T) {
				scenario.Failpoint = fault
				run(t, scenario)
			})
		}
	}
}

func TestRobustnessRegression(t *testing.T) {
	framework.E2eTestRunner.BeforeTest(t)
	for _, scenario := range scenarios.Regression(t) {
		t.Run(scenario.Name, func(t *testing.T) { run(t, scenario) })
	}
}

// run does what etcd's runner does with a scenario, but for where it learns which requests were carried out.
func run(t *testing.T, s scenarios.TestScenario) {
	lg := zaptest.NewLogger(t)
	s.Cluster.Logger = lg
	// The binary has no failpoints of gofail's inside.
	s.Cluster.GoFailEnabled = false
	ctx := context.Background()
	cluster, err := e2e.NewEtcdProcessCluster(ctx, t, e2e.WithConfig(&s.Cluster))
	require.NoError(t, err)
	defer func() {
		for _, member := range cluster.Procs {
			if t.Failed() {
				t.Logf("log of %s:\n%s", member.Config().Name, strings.Join(member.Logs().Lines(), ""))
			}
			member.Kill()
		}
		cluster.ConcurrentStop()
	}()
	if err := failpoint.Validate(cluster, s.Failpoint, s.Profile); err != nil {
		t.Skip(err)
	}
	waitUntilConnected(ctx, t, cluster)
	r := report.TestReport{Logger: lg, Cluster: cluster}
	defer func() { r.Report(t, false) }()
	r.Client = simulate(ctx, t, s, lg, cluster)
	if t.Failed() {
		return
	}
	requests, err := persistedRequests(r.Client)
	require.NoError(t, err)
	config := validate.Config{ExpectRevisionUnique: s.Traffic.ExpectUniqueRevision()}
	r.Visualize = validate.ValidateAndReturnVisualize(t, lg, config, r.Client, requests, 5*time.Minute)
	t.Logf("%d requests were carried out", len(requests))
}

// waitUntilConnected waits until each member reaches the leader. A proxy swallows what is said to a member before that
// listens, so one that was started first may take some seconds, and the tests want their first write to succeed.
func waitUntilConnected(ctx context.Context, t *testing.T, cluster *e2e.EtcdProcessCluster) {
	for _, member := range cluster.Procs {
		c, err := clientv3.New(clientv3.Config{Endpoints: member.EndpointsGRPC(), Logger: zap.NewNop()})
		require.NoError(t, err)
		defer c.Close()
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err := c.Get(ctx, "nothing")
			return err == nil
		}, 30*time.Second, 10*time.Millisecond, member.Config().Name)
	}
}

// simulate lets clients and watchers loose on the cluster, and the fault in their midst.
func simulate(
	ctx context.Context, t *testing.T, s scenarios.TestScenario, lg *zap.Logger, cluster *e2e.EtcdProcessCluster,
) []report.ClientReport {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	base, ids := time.Now(), identity.NewIDProvider()
	var group errgroup.Group
	var operations, watches, faultsOwn []report.ClientReport
	injected, maxRevision := make(chan report.FailpointInjection, 1), make(chan int64, 1)
	pause := func() { time.Sleep(time.Second + time.Duration(rand.Int63n(int64(2*traffic.DefaultCompactionPeriod)))) }
	group.Go(func() error {
		defer close(injected)
		pause()
		done, err := failpoint.Inject(ctx, t, lg, cluster, s.Failpoint, base, ids)
		if err != nil {
			t.Error(err)
			cancel()
		}
		pause()
		if done != nil {
			injected <- done.FailpointInjection
			faultsOwn = done.Client
		}
		return nil
	})
	group.Go(func() error {
		defer close(maxRevision)
		operations = traffic.SimulateTraffic(ctx, t, lg, cluster, s.Profile, s.Traffic, injected, base, ids)
		maxRevision <- lastRevision(operations)
		return nil
	})
	group.Go(func() error {
		watches = client.CollectClusterWatchEvents(ctx, t, cluster, maxRevision, s.Watch, base, ids)
		return nil
	})
	group.Wait()
	return append(operations, append(faultsOwn, watches...)...)
}

func lastRevision(reports []report.ClientReport) (last int64) {
	for _, client := range reports {
		for _, op := range client.KeyValue {
			last = max(last, op.Output.(model.MaybeEtcdResponse).Revision)
		}
	}
	return last
}
