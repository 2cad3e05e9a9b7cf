package smartbatch.frontend;

import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.URI;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import org.pytorch.serve.util.ConfigManager;
import org.pytorch.serve.util.ConnectorType;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import smartbatch.frontend.access.Rules;
import smartbatch.frontend.account.Ledger;
import smartbatch.frontend.http.BytesInFlight;
import smartbatch.frontend.models.Models;
import smartbatch.frontend.operations.Drain;
import smartbatch.frontend.operations.Pages;
import smartbatch.frontend.patch.Patches;
import smartbatch.frontend.worker.StartLatch;

/** What the handlers of one server share. There is one server a JVM; only {@link #get} knows which. */
public final class Frontend {
    /** "stock" leaves TorchServe as it came. */
    public static final String MODE = "SMARTBATCH_FRONTEND";

    /** Of all bodies together on the inference port; by default a share of the heap. */
    public static final String MAX_BYTES = "SMARTBATCH_MAX_BYTES_IN_FLIGHT";

    /** Seconds that a client may take for a head, between two pieces of a body, or to read on in an answer. */
    public static final String CLIENT_TIMEOUT = "SMARTBATCH_CLIENT_TIMEOUT_S";

    /** "off": no page at /ui/ on the inference port. */
    public static final String UI = "SMARTBATCH_UI";

    private static final int DEFAULT_CLIENT_TIMEOUT_S = 30;

    /** A body is one array until it is answered; the rest is for arrays that are garbage by then, answers, and all else. */
    private static final int HEAP_PER_BODY_BYTE = 4;

    private static final Logger logger = LoggerFactory.getLogger(Frontend.class);
    private static Frontend instance;

    private final Map<String, String> patches = new TreeMap<>();
    private final BytesInFlight bytes;
    private final long clientTimeoutS;
    private final Models models = new Models();
    private final Ledger ledger = new Ledger(models::versions);
    private final Drain drain = new Drain(models);

    private final Rules rules;
    private final Pages pages;

    private Frontend(Map<String, String> environment) {
        long most = Runtime.getRuntime().maxMemory() / HEAP_PER_BODY_BYTE;
        bytes = new BytesInFlight(number(environment, MAX_BYTES, most));
        clientTimeoutS = number(environment, CLIENT_TIMEOUT, DEFAULT_CLIENT_TIMEOUT_S);
        ledger.watchBytes(bytes::bytesInFlight, bytes::limitBytes);
        SocketAddress management =
                ConfigManager.getInstance().getListener(ConnectorType.MANAGEMENT_CONNECTOR).getSocketAddress();
        String host = management instanceof InetSocketAddress inet ? inet.getHostString() : "";
        rules = new Rules(Path.of("/proc"), environment, host);
        String ui = environment.getOrDefault(UI, "");
        if (!ui.matches("|on|off")) {
            throw new IllegalArgumentException(UI + " must be on or off, got '" + ui + "'");
        }
        URI jar = URI.create(Frontend.class.getProtectionDomain().getCodeSource().getLocation().toString());
        pages = new Pages(Path.of(jar).resolveSibling("ui"), !ui.equals("off"));
    }

    private static long number(Map<String, String> environment, String name, long byDefault) {
        String text = environment.getOrDefault(name, "");
        if (!text.isEmpty() && !text.matches("[1-9][0-9]{0,17}")) {
            throw new IllegalArgumentException(name + " must be a whole number above 0, got '" + text + "'");
        }
        return text.isEmpty() ? byDefault : Long.parseLong(text);
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
        // config.properties' flags are for TorchServe's buffers of whole batches. Ours are pieces of 1 MiB at most, which
        // chunks of 4 MiB hold; Netty reads this when the first buffer is made.
        System.setProperty("io.netty.allocator.maxOrder", "9");
        System.clearProperty("io.netty.allocator.numDirectArenas");
        System.clearProperty("io.netty.threadLocalDirectBufferSize");
        // Before the patches: the classes they put in place ask for it.
        instance = new Frontend(environment);
        instance.patches.putAll(new Patches(Frontend.class.getClassLoader()).apply());
        instance.patches.forEach(
                (name, outcome) -> {
                    if (!outcome.equals(Patches.MENDED)) {
                        logger.warn("{} is left as TorchServe has it: {}", name, outcome);
                    }
                });
        try {
            if (Patches.MENDED.equals(instance.patches.get(Patches.LIFE_CYCLE))) {
                StartLatch.restartAtOnce();
            }
        } catch (ReflectiveOperationException e) {
            logger.warn("workers that end are started again after a second, as TorchServe has it: {}", e.toString());
        }
    }

    /** The one that runs in this JVM. */
    public static synchronized Frontend get() {
        if (instance == null) {
            throw new IllegalStateException("SmartBatch's frontend has not been started");
        }
        return instance;
    }

    /** The bodies that are in memory. */
    public BytesInFlight bytes() {
        return bytes;
    }

    /** As {@link #CLIENT_TIMEOUT}. */
    public long clientTimeoutS() {
        return clientTimeoutS;
    }

    /** Each class we mend, and {@link Patches#MENDED} or why it was left alone. */
    public Map<String, String> patches() {
        return java.util.Collections.unmodifiableMap(patches);
    }

    /** SmartBatch's version, as this jar has it. */
    public String version() {
        return String.valueOf(Frontend.class.getPackage().getImplementationVersion());
    }

    /** Who may manage this server. */
    public Rules rules() {
        return rules;
    }

    /** What browsers are shown. */
    public Pages pages() {
        return pages;
    }

    /** What is registered, and how it does. */
    public Models models() {
        return models;
    }

    /** What the frontend counts of requests, queues and workers. */
    public Ledger ledger() {
        return ledger;
    }

    /** Whether it still takes requests. */
    public Drain drain() {
        return drain;
    }
}
