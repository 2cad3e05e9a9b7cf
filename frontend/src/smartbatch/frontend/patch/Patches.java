package smartbatch.frontend.patch;

import java.io.IOException;
import java.io.InputStream;
import java.lang.invoke.MethodHandles;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.UnaryOperator;

/**
 * Puts classes of ours, or TorchServe's with calls pointed elsewhere, in the place of TorchServe's own.
 *
 * <p>A class that nobody has loaded yet can be defined by us: Java's lookup of a class beside it, in the same package
 * and loader, may do so. That needs no agent, so a jar that is missing leaves a server that starts. Only bytes whose
 * SHA-256 we know are replaced.
 */
public final class Patches {
    /** What {@link #apply} says of a class that is ours now. */
    public static final String MENDED = "mended";

    /**
     * One class to mend.
     *
     * @param name with slashes.
     * @param sha256 of the bytes that the patch was made for, in hexadecimal.
     * @param beside a class of the same package that may be loaded by now.
     * @param change from TorchServe's bytes to those to load; null where the jar has ours.
     */
    record Patch(String name, String sha256, String beside, UnaryOperator<byte[]> change) {}

    private static final List<Patch> ALL =
            List.of(
                    new Patch(
                            "org/pytorch/serve/ServerInitializer",
                            "096cdc16ec94359c5bafd0fddf4443e3d9a8c7656863d0b57bf1586fd2f8f700",
                            "org.pytorch.serve.ModelServer",
                            null),
                    new Patch(
                            "org/pytorch/serve/util/ServerGroups",
                            "8c4327920bcaae8e5f6a9f9b6ec5c028515e95752140a4c74e43ebe29db3ef65",
                            "org.pytorch.serve.util.ConfigManager",
                            renamed(
                                    "io/netty/channel/group/DefaultChannelGroup",
                                    "smartbatch/frontend/operations/Listeners")),
                    new Patch(
                            "org/pytorch/serve/wlm/Model",
                            "7c5523f1fe77fe79aa32665469e17725e70518692abcf4987989ef72f10d4cff",
                            "org.pytorch.serve.wlm.WorkerState",
                            renamed(
                                    "java/util/concurrent/ConcurrentHashMap",
                                    "smartbatch/frontend/models/JobQueues")));

    private final ClassLoader loader;

    /** @param loader TorchServe's, which is ours too. */
    public Patches(ClassLoader loader) {
        this.loader = loader;
    }

    /** Mend every class of the table; returns {@link #MENDED} or the reason against it for each. */
    public Map<String, String> apply() {
        Map<String, String> outcomes = new TreeMap<>();
        for (Patch patch : ALL) {
            outcomes.put(patch.name().replace('/', '.'), outcome(patch));
        }
        return outcomes;
    }

    private static UnaryOperator<byte[]> renamed(String from, String to) {
        return original -> new ConstantPool(original).renameClass(from, to).toByteArray();
    }

    private String outcome(Patch patch) {
        try {
            byte[] original = resource(patch.name() + ".class");
            String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(original));
            if (!digest.equals(patch.sha256())) {
                return "another build of TorchServe, its SHA-256 is " + digest;
            }
            byte[] ours =
                    patch.change() == null
                            ? resource("mended/" + patch.name() + ".class")
                            : patch.change().apply(original);
            Class<?> beside = Class.forName(patch.beside(), false, loader);
            MethodHandles.privateLookupIn(beside, MethodHandles.lookup()).defineClass(ours);
            return MENDED;
        } catch (IOException | NoSuchAlgorithmException | ReflectiveOperationException | LinkageError e) {
            return e.toString();
        }
    }

    private byte[] resource(String path) throws IOException {
        try (InputStream in = loader.getResourceAsStream(path)) {
            if (in == null) {
                throw new IOException("no " + path + " on the class path");
            }
            return in.readAllBytes();
        }
    }
}
