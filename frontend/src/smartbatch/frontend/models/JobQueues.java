package smartbatch.frontend.models;

import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingDeque;
import smartbatch.frontend.Frontend;

/**
 * Stands in for the map in which TorchServe's Model keeps its queues, and gives it one of ours for its requests.
 *
 * <p>Model puts that one with {@code putIfAbsent}, and those of its workers' own commands, which are left alone, with
 * {@code put}.
 */
public final class JobQueues<V> extends ConcurrentHashMap<String, V> {
    public JobQueues() {}

    public JobQueues(int initialCapacity) {
        super(initialCapacity);
    }

    @Override
    @SuppressWarnings("unchecked")
    public V putIfAbsent(String key, V value) {
        int capacity = ((LinkedBlockingDeque<?>) value).remainingCapacity();
        return super.putIfAbsent(key, (V) Frontend.get().models().newQueue(capacity));
    }
}
