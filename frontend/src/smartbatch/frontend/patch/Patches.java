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
                            "org/pytorch/serve/grpcimpl/GRPCServiceFactory",
                            "861b6fe0f5e128fd28731d85ec35aa9190809d1c343b417024201ca4fab5da5f",
                            "org.pytorch.serve.grpcimpl.GRPCInterceptor",
                            null),
                    new Patch(
                            "org/pytorch/serve/grpcimpl/InferenceImpl",
                            "8b85e06f700eeb9dc6e595307bcaf38c67209883a08dcd09039f72f1462e36cc",
                            "org.pytorch.serve.grpcimpl.GRPCInterceptor",
                            bytes ->
                                    new ConstantPool(bytes)
                                            .renameClass(
                                                    "org/pytorch/serve/job/GRPCJob", "smartbatch/frontend/access/GrpcJob")
                                            .toByteArray()));

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
