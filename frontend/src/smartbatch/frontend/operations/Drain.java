package smartbatch.frontend.operations;

import com.google.gson.JsonObject;
import io.netty.channel.ServerChannel;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.net.SocketAddress;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.pytorch.serve.util.ConfigManager;
import org.pytorch.serve.util.Connector;
import org.pytorch.serve.util.ConnectorType;
import smartbatch.frontend.models.Models;

/**
 * Whether this server still takes requests, and what it owes.
 *
 * <p>Once it drains it takes none, and there is no way back: the inference port is closed, newcomers on open connections
 * are refused, and each connection ends with the answer it waits for, or after a moment's silence.
 */
public final class Drain {
    static final String CODE = "draining";
    static final String MESSAGE = "the server is stopping; retry elsewhere";

    /** The connections of the inference port; each adds and removes itself. */
    final Set<DrainHandler> connections = ConcurrentHashMap.newKeySet();
    /** The sockets that the server listens on, of all ports. */
    final Set<ServerChannel> listeners = ConcurrentHashMap.newKeySet();

    private final Models models;
    private volatile long sinceMillis;

    public Drain(Models models) {
        this.models = models;
    }

    /** Whether the server has been told to take no more requests. */
    public boolean isDraining() {
        return sinceMillis != 0;
    }

    /** Take no more requests; returns at once, and does nothing the second time. */
    synchronized void begin() {
        if (!isDraining()) {
            sinceMillis = System.currentTimeMillis();
            listeners.stream().filter(Drain::isForInferenceAlone).forEach(ServerChannel::close);
            connections.forEach(DrainHandler::closeWhenSilent);
        }
    }

    /** Answer what waits for a worker with a refusal: there is no time left for it. */
    void refuseWaiting() {
        models.refuseWaiting(HttpResponseStatus.SERVICE_UNAVAILABLE, CODE, MESSAGE);
    }

    /**
     * What this server still owes, as JSON.
     *
     * <pre>
     * draining_since   unix seconds; not there while it takes requests
     * queued           requests that wait for a worker
     * answering        requests that came by HTTP and have no answer yet, those that wait included
     * receiving        requests of which only a part has come
     * quiet_ms         since anything more of those came
     * connections      open to the inference port
     * </pre>
     */
    JsonObject state() {
        int answering = 0;
        int receiving = 0;
        long quietNanos = Long.MAX_VALUE;
        for (DrainHandler connection : connections) {
            if (connection.phase == DrainHandler.Phase.ANSWERING) {
                answering++;
            } else if (connection.phase == DrainHandler.Phase.RECEIVING) {
                receiving++;
                quietNanos = Math.min(quietNanos, System.nanoTime() - connection.lastNanos);
            }
        }
        JsonObject state = new JsonObject();
        if (isDraining()) {
            state.addProperty("draining_since", sinceMillis / 1e3);
        }
        state.addProperty("queued", models.versions().stream().mapToInt(Models.Version::queueLength).sum());
        state.addProperty("answering", answering);
        state.addProperty("receiving", receiving);
        state.addProperty("quiet_ms", receiving == 0 ? 0 : quietNanos / 1_000_000);
        state.addProperty("connections", connections.size());
        return state;
    }

    /** False for a port that management shares: whoever drains has to reach it. */
    private static boolean isForInferenceAlone(ServerChannel listener) {
        ConfigManager config = ConfigManager.getInstance();
        Connector inference = config.getListener(ConnectorType.INFERENCE_CONNECTOR);
        return !inference.equals(config.getListener(ConnectorType.MANAGEMENT_CONNECTOR))
                && portOrPath(inference.getSocketAddress()).equals(portOrPath(listener.localAddress()));
    }

    private static String portOrPath(SocketAddress address) {
        return address.toString().replaceFirst(".*:", "");
    }
}
