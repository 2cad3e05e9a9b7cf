package smartbatch.frontend.models;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import org.pytorch.serve.archive.model.ModelConfig;
import org.pytorch.serve.util.ConfigManager;
import org.pytorch.serve.wlm.Model;
import org.pytorch.serve.wlm.ModelManager;
import org.pytorch.serve.wlm.ModelVersionedRefs;
import org.pytorch.serve.wlm.WorkerState;
import org.pytorch.serve.wlm.WorkerThread;

/** What is registered now: models, their versions, queues and workers; looked at, never changed. */
public final class Models {
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
        List<Version> found = new ArrayList<>();
        ModelManager manager = ModelManager.getInstance();
        if (manager != null) { // else the server is still starting
            for (Map.Entry<String, ModelVersionedRefs> model : manager.getAllModels()) {
                String standard = model.getValue().getDefaultVersion();
                for (Map.Entry<String, Model> entry : model.getValue().getAllVersions()) {
                    found.add(describe(model.getKey(), entry.getValue(), entry.getKey().equals(standard)));
                }
            }
        }
        return found;
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

    private static Version describe(String name, Model model, boolean isDefault) {
        Map<String, Integer> workers = new TreeMap<>();
        for (WorkerThread worker : ModelManager.getInstance().getWorkers(model.getModelVersionName())) {
            WorkerState state = worker.getState();
            workers.merge(state == null ? "STARTING" : state.name(), 1, Integer::sum);
        }
        return new Version(
                name,
                model.getVersion(),
                isDefault,
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
