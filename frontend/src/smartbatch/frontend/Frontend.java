package smartbatch.frontend;

import java.util.Map;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import smartbatch.frontend.models.Models;
import smartbatch.frontend.operations.Drain;
import smartbatch.frontend.patch.Patches;

/** What the handlers of one server share. There is one server a JVM; only {@link #get} knows which. */
public final class Frontend {
    /** "stock" leaves TorchServe as it came. */
    public static final String MODE = "SMARTBATCH_FRONTEND";

    private static final Logger logger = LoggerFactory.getLogger(Frontend.class);
    private static Frontend instance;

    private final Map<String, String> patches;
    private final Models models = new Models();
    private final Drain drain = new Drain(models);

    private Frontend(Map<String, String> patches) {
        this.patches = patches;
    }

    /** Mend what can be mended, once; a failure leaves TorchServe as it came, and says so in its log. */
    static synchronized void start(Map<String, String> environment) {
        if (instance != null) {
            return;
        }
        String mode = environment.getOrDefault(MODE, "");
        if (mode.equals("stock")) {
            logger.warn("{}=stock: TorchServe's frontend runs as it came", MODE);
            return;
        }
        if (!mode.isEmpty() && !mode.equals("mended")) {
            throw new IllegalArgumentException(MODE + " must be stock or mended, got '" + mode + "'");
        }
        // Before the patches: the classes they put in place ask for it.
        instance = new Frontend(new java.util.TreeMap<>());
        instance.patches.putAll(new Patches(Frontend.class.getClassLoader()).apply());
        instance.patches.forEach(
                (name, outcome) -> {
                    if (!outcome.equals(Patches.MENDED)) {
                        logger.warn("{} is left as TorchServe has it: {}", name, outcome);
                    }
                });
    }

    /** The one that runs in this JVM. */
    public static synchronized Frontend get() {
        if (instance == null) {
            throw new IllegalStateException("SmartBatch's frontend has not been started");
        }
        return instance;
    }

    /** Each class we mend, and {@link Patches#MENDED} or why it was left alone. */
    public Map<String, String> patches() {
        return java.util.Collections.unmodifiableMap(patches);
    }

    /** What is registered, and how it does. */
    public Models models() {
        return models;
    }

    /** Whether it still takes requests. */
    public Drain drain() {
        return drain;
    }
}
