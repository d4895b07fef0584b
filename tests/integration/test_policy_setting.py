"""Which policy a cluster has, and which setting takes precedence."""

import pytest

from everycore import Cluster, ConfigurationError, Settings
from tests.kit.traffic import agents
from tests.kit.workers import IDLE, within, worker_script

VARIABLE = "EVERYCORE_POLICY"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


async def policy_in_effect(folder, **options):
    """The policy with which its listeners are really made."""
    async with agents(folder, **options) as (cluster, worker):
        await within(worker.serve())
        return cluster.snapshot().listeners[0].policy


async def chosen(folder, cluster):
    """The policy of `cluster`, which is opened for it."""
    script = worker_script(folder, IDLE)
    async with cluster:
        cluster.setup_primary(exec=script)
        return cluster.policy


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["round_robin", "shared", "sticky"])
class TestInEffect:
    async def test_by_argument(self, tmp_path, policy):
        assert (await policy_in_effect(tmp_path, policy=policy)) == policy

    async def test_by_variable(self, tmp_path, policy, monkeypatch):
        monkeypatch.setenv(VARIABLE, policy)
        assert (await policy_in_effect(tmp_path)) == policy

    async def test_by_settings_and_by_setup_primary(self, tmp_path, policy):
        script = worker_script(tmp_path, IDLE)
        async with Cluster(Settings(exec=script, policy=policy)) as cluster:
            assert cluster.policy == policy
        async with Cluster(Settings(exec=script)) as cluster:
            cluster.setup_primary(policy=policy)
            assert cluster.policy == policy
            assert cluster.settings.policy == policy
            cluster.fork()
            assert cluster.policy == policy


class TestPrecedence:
    async def test_round_robin_is_the_default(self, tmp_path):
        assert await chosen(tmp_path, Cluster()) == "round_robin"

    async def test_an_empty_variable_says_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setenv(VARIABLE, "")
        assert await chosen(tmp_path, Cluster()) == "round_robin"

    @pytest.mark.parametrize(("argument", "variable"), [("shared", "round_robin"), ("round_robin", "shared")])
    async def test_the_argument_goes_before_the_variable(self, tmp_path, monkeypatch, argument, variable):
        monkeypatch.setenv(VARIABLE, variable)
        assert await chosen(tmp_path, Cluster(policy=argument)) == argument
        assert await chosen(tmp_path, Cluster(Settings(policy=argument))) == argument
        cluster = Cluster()
        cluster.setup_primary(policy=argument)
        assert await chosen(tmp_path, cluster) == argument

    async def test_the_argument_goes_before_the_settings(self, tmp_path):
        assert await chosen(tmp_path, Cluster(Settings(policy="round_robin"), policy="shared")) == "shared"

    async def test_setup_primary_goes_before_both(self, tmp_path):
        cluster = Cluster(Settings(policy="shared"), policy="shared")
        cluster.setup_primary(policy="round_robin")
        assert await chosen(tmp_path, cluster) == "round_robin"

    async def test_setup_primary_with_none_takes_the_argument_back(self, tmp_path, monkeypatch):
        monkeypatch.setenv(VARIABLE, "shared")
        cluster = Cluster(policy="round_robin")
        cluster.setup_primary(policy=None)
        assert await chosen(tmp_path, cluster) == "shared"

    async def test_an_argument_makes_the_variable_s_nonsense_irrelevant(self, tmp_path, monkeypatch):
        monkeypatch.setenv(VARIABLE, "nonsense")
        assert await chosen(tmp_path, Cluster(policy="shared")) == "shared"


class TestUnknown:
    @pytest.mark.parametrize("wrong", ["sharde", "", "ROUND_ROBIN", 2])
    def test_an_argument(self, wrong):
        for made in (lambda: Cluster(policy=wrong), lambda: Settings(policy=wrong)):
            with pytest.raises(ConfigurationError) as caught:
                made()
            assert caught.value.source == "argument"
            assert "policy" in str(caught.value)
            assert repr(wrong) in str(caught.value)
            assert "round_robin, shared, sticky" in str(caught.value)

    def test_a_variable_is_named(self, monkeypatch):
        monkeypatch.setenv(VARIABLE, "sharde")
        with pytest.raises(ConfigurationError) as caught:
            Cluster()
        assert caught.value.source == VARIABLE
        assert VARIABLE in str(caught.value)
        assert "'sharde'" in str(caught.value)

    async def test_by_setup_primary_it_changes_nothing(self, tmp_path):
        async with Cluster(policy="shared") as cluster:
            with pytest.raises(ConfigurationError):
                cluster.setup_primary(exec=worker_script(tmp_path, IDLE), policy="sharde")
            assert cluster.policy == "shared"
            assert cluster.settings.exec is None


class TestTrustedProxies:
    """They need a policy by which the primary accepts, whichever is set first."""

    def test_not_under_shared(self, monkeypatch):
        with pytest.raises(ConfigurationError, match=r"trust_proxy_protocol: .* not shared"):
            Cluster(policy="shared", trust_proxy_protocol=["127.0.0.1"])
        monkeypatch.setenv(VARIABLE, "shared")
        with pytest.raises(ConfigurationError, match=r"trust_proxy_protocol: .* not shared"):
            Cluster(trust_proxy_protocol=["127.0.0.1"])
        Cluster(policy="sticky", trust_proxy_protocol=["127.0.0.1"])
        Cluster(trust_proxy_protocol=())

    def test_a_later_change_is_refused_and_changes_nothing(self):
        cluster = Cluster(policy="sticky", trust_proxy_protocol=["127.0.0.1"])
        with pytest.raises(ConfigurationError, match=r"trust_proxy_protocol: .* not shared"):
            cluster.setup_primary(policy="shared", umask=0)
        assert cluster.policy == "sticky"
        assert cluster.settings.umask is None

    @pytest.mark.parametrize("wrong", ["127.0.0.1", ["10.1.2.3/8"], ["proxy"], [5]])
    def test_what_names_none(self, wrong):
        with pytest.raises(ConfigurationError, match="trust_proxy_protocol"):
            Cluster(trust_proxy_protocol=wrong)


@pytest.mark.slow
class TestFrozen:
    async def test_by_the_first_fork(self, tmp_path):
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE)), policy="shared") as cluster:
            cluster.setup_primary(policy="round_robin")
            cluster.setup_primary(policy="shared")
            cluster.fork()
            cluster.setup_primary(policy="shared")  # the same is no change
            before = cluster.settings
            with pytest.raises(ConfigurationError, match="first fork"):
                cluster.setup_primary(policy="round_robin", umask=0)
            assert cluster.policy == "shared"
            assert cluster.settings == before
            await within(cluster.disconnect())
            with pytest.raises(ConfigurationError, match="first fork"):
                cluster.setup_primary(policy="round_robin")

    async def test_a_fork_that_failed_for_its_arguments_does_not_count(self, tmp_path):
        async with Cluster(policy="shared") as cluster:
            with pytest.raises(ConfigurationError):
                cluster.fork({"A=B": "c"})
            cluster.setup_primary(policy="round_robin")
            assert cluster.policy == "round_robin"

    async def test_the_variable_s_later_changes_mean_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setenv(VARIABLE, "shared")
        async with Cluster(Settings(exec=worker_script(tmp_path, IDLE))) as cluster:
            cluster.fork()
            monkeypatch.setenv(VARIABLE, "round_robin")
            assert cluster.policy == "shared"
            cluster.setup_primary(umask=0o022)
            assert cluster.policy == "shared"
