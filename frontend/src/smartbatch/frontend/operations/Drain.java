package smartbatch.frontend.operations;

import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import io.netty.channel.ServerChannel;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.util.Collection;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.pytorch.serve.util.ConfigManager;
import org.pytorch.serve.util.Connector;
import org.pytorch.serve.util.ConnectorType;
import smartbatch.frontend.models.Models;

/**
 * Whether this server still takes requests, and what it owes.
 *
 * <p>Once it drains it takes none: the inference port is closed, newcomers on open connections are refused, and each
 * connection ends with the answer it waits for, or after a moment's silence. What was accepted is answered. There is no
 * way back.
 */
public final class Drain {
    static final String CODE = "draining";
    static final String MESSAGE = "the server is stopping; retry elsewhere";

    private final Models models;
    private final Set<ServerChannel> listeners = ConcurrentHashMap.newKeySet();
    private final Set<DrainHandler> connections = ConcurrentHashMap.newKeySet();
    private volatile long sinceMillis;

    public Drain(Models models) {
        this.models = models;
    }

    /** A socket that the server listens on. */
    void listening(ServerChannel listener) {
        listeners.add(listener);
    }

    /** Whether {@link #begin} was called. */
    public boolean isDraining() {
        return sinceMillis != 0;
    }

    /** The connections of the inference port; each adds and removes itself. */
    Collection<DrainHandler> connections() {
        return connections;
    }

    /** Take no more requests; returns at once, and does nothing the second time. */
    synchronized void begin() {
        if (isDraining()) {
            return;
        }
        sinceMillis = System.currentTimeMillis();
        listeners.stream().filter(Drain::isForInferenceAlone).forEach(ServerChannel::close);
        connections.forEach(DrainHandler::closeWhenSilent);
    }

    /** Answer what waits for a worker with a refusal: there is no time left for it. */
    void refuseWaiting() {
        models.refuseWaiting(HttpResponseStatus.SERVICE_UNAVAILABLE, CODE, MESSAGE);
    }

    /**
     * What this server still owes, as JSON.
     *
     * <pre>
     * draining_since   unix seconds, or null
     * queued           requests that wait for a worker
     * answering        requests that came by HTTP and have no answer yet, those that wait included
     * receiving        requests of which only a part has come
     * quiet_ms         since anything more of those came; 0 without any
     * connections      open to the inference port
     * </pre>
     */
    JsonObject state() {
        long now = System.nanoTime();
        int answering = 0;
        int receiving = 0;
        long quietNanos = Long.MAX_VALUE;
        for (DrainHandler connection : connections) {
            switch (connection.phase()) {
                case ANSWERING:
                    answering++;
                    break;
                case RECEIVING:
                    receiving++;
                    quietNanos = Math.min(quietNanos, now - connection.lastNanos());
                    break;
                default:
            }
        }
        JsonObject state = new JsonObject();
        state.add("draining_since", isDraining() ? new JsonPrimitive(sinceMillis / 1e3) : JsonNull.INSTANCE);
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
                && isSame(inference.getSocketAddress(), listener.localAddress());
    }

    private static boolean isSame(SocketAddress asked, SocketAddress bound) {
        return asked instanceof InetSocketAddress && bound instanceof InetSocketAddress
                ? ((InetSocketAddress) asked).getPort() == ((InetSocketAddress) bound).getPort()
                : asked.equals(bound);
    }
}
