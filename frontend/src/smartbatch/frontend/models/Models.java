package smartbatch.frontend.models;

import io.netty.handler.codec.http.HttpResponseStatus;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.LinkedBlockingDeque;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.pytorch.serve.archive.model.ModelVersionNotFoundException;
import org.pytorch.serve.archive.model.ModelConfig;
import org.pytorch.serve.job.Job;
import org.pytorch.serve.util.ConfigManager;
import org.pytorch.serve.wlm.Model;
import org.pytorch.serve.wlm.ModelManager;
import org.pytorch.serve.wlm.WorkerState;
import org.pytorch.serve.wlm.WorkerThread;

/** What is registered now: models, their versions, queues and workers; looked at, but for queues that are given up. */
public final class Models {
    /** How often a queue looks whether a worker will ever come. */
    private static final long LOOK_MS = 100;

    /**
     * One version of a model, as it was when asked.
     *
     * @param isDefault whether requests that name no version come here.
     * @param queueLength requests that wait for a worker.
     * @param queueCapacity how many may wait; the next is refused.
     * @param workers how many there are of each {@link WorkerState} that one is in; "STARTING" before the first state.
     * @param minWorkers how many there should be.
     */
    public record Version(
            String name,
            String version,
            boolean isDefault,
            int queueLength,
            int queueCapacity,
            Map<String, Integer> workers,
            int minWorkers) {
        /** Whether a worker has the model loaded: one that is being restarted has not. */
        public boolean isReady() {
            return workers.containsKey(WorkerState.WORKER_MODEL_LOADED.name());
        }
    }

    /** Every version of every model, the functions of workflows included. */
    public List<Version> versions() {
        return all().map(Models::describe).toList();
    }

    /** The version of a model, or with null its default one; empty where there is none. */
    public Optional<Version> find(String name, String version) {
        return versions().stream()
                .filter(v -> v.name().equals(name) && (version == null ? v.isDefault() : v.version().equals(version)))
                .findFirst();
    }

    /** Whether that version, or with null the default one, is there and has a worker with its model loaded. */
    public boolean isReady(String name, String version) {
        return find(name, version).map(Version::isReady).orElse(false);
    }

    /** Whether that version, or with null the default one, has a worker, in whatever state. */
    public boolean hasWorker(String name, String version) {
        try { // looked up, not described: a flood of refusals asks this
            Model found = ModelManager.getInstance().getModel(name, version);
            return found != null && !ModelManager.getInstance().getWorkers(found.getModelVersionName()).isEmpty();
        } catch (ModelVersionNotFoundException e) {
            return false;
        }
    }

    /** Answer all that wait for any model with an error. */
    public void refuseWaiting(HttpResponseStatus status, String code, String message) {
        all().map(Inside::queue)
                .filter(queue -> queue instanceof JobQueue)
                .forEach(queue -> ((JobQueue) queue).refuseAll(status, code, message));
    }

    /** A queue for a version that is being registered. */
    LinkedBlockingDeque<Job> newQueue(int capacity) {
        return new JobQueue(capacity, Models::isServed, Models::soon);
    }

    private static boolean isServed(JobQueue queue) {
        return all().anyMatch(model -> Inside.queue(model) == queue && hasWorker(model));
    }

    private static void soon(Runnable task) {
        ModelManager.getInstance().getScheduler().schedule(task, LOOK_MS, TimeUnit.MILLISECONDS);
    }

    private static Stream<Model> all() {
        ModelManager manager = ModelManager.getInstance();
        return manager == null // the server is still starting
                ? Stream.empty()
                : manager.getAllModels().stream()
                        .flatMap(model -> model.getValue().getAllVersions().stream())
                        .map(Map.Entry::getValue);
    }

    /** Whether one is there that has not been given up, as TorchServe does with one that keeps dying for minutes. */
    private static boolean hasWorker(Model model) {
        return ModelManager.getInstance().getWorkers(model.getModelVersionName()).stream()
                .anyMatch(worker -> worker.getState() != WorkerState.WORKER_STOPPED || worker.isHealthy());
    }

    private static Version describe(Model model) {
        ModelManager manager = ModelManager.getInstance();
        Map<String, Integer> workers = new TreeMap<>();
        for (WorkerThread worker : manager.getWorkers(model.getModelVersionName())) {
            WorkerState state = worker.getState();
            workers.merge(state == null ? "STARTING" : state.name(), 1, Integer::sum);
        }
        return new Version(
                model.getModelName(),
                model.getVersion(),
                manager.getDefaultModels().get(model.getModelName()) == model,
                model.getPendingRequestsInJobQueue(),
                capacity(model),
                workers,
                model.getMinWorkers());
    }

    /** As Model's constructor finds it: what is free and what waits, read one after the other, need not add up to it. */
    private static int capacity(Model model) {
        ModelConfig config = model.getModelArchive().getModelConfig();
        boolean hasOwn = config != null && config.getJobQueueSize() > 0;
        return hasOwn ? config.getJobQueueSize() : ConfigManager.getInstance().getJobQueueSize();
    }
}
