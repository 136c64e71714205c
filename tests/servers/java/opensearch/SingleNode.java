import static org.codelibs.opensearch.runner.OpenSearchRunner.newConfigs;

import org.codelibs.opensearch.runner.OpenSearchRunner;

/** A real OpenSearch node in one process, from published jars: {@code SingleNode HOME HTTP_PORT}. */
public final class SingleNode {
    private static final int LAST_PORT = 65535;

    private SingleNode() {
    }

    public static void main(String[] args) throws Exception {
        var port = Integer.parseInt(args[1]);
        var runner = new OpenSearchRunner();
        runner.setMaxHttpPort(LAST_PORT);
        runner.onBuild((number, settings) -> settings
            .put("network.host", "127.0.0.1").put("http.port", port).put("transport.port", "0")
            .put("node.name", "one").put("discovery.type", "single-node").put("node.processors", 2)
            .put("cluster.routing.allocation.disk.threshold_enabled", false)
            .put("indices.breaker.total.use_real_memory", false));
        runner.build(newConfigs().basePath(args[0]).numOfNode(1).baseHttpPort(port - 1).clusterName("test").build());
        Thread.currentThread().join();
    }
}
