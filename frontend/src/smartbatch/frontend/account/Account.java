package smartbatch.frontend.account;

import io.netty.channel.ChannelDuplexHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpStatusClass;
import io.netty.handler.codec.http.LastHttpContent;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Enters every prediction that one connection asks for into the {@link Ledger}, once, whoever answers it.
 *
 * <p>It is entered when its answer's last byte has been written, or when the connection ends before that. What is
 * outside of this handler lets in one request at a time.
 */
public final class Account extends ChannelDuplexHandler {
    /** Answers of SmartBatch's handler have it; what the frontend answers by itself does not. */
    private static final String FROM_A_WORKER = "x-smartbatch-batch-size";
    /** How an error of ours begins, and its code. */
    private static final Pattern ERROR = Pattern.compile("^\\s*\\{\\s*\"error\":\\s*\\{\\s*\"code\":\\s*\"(\\w+)\"");
    private static final int ERROR_WITHIN_BYTES = 100;

    private final Ledger ledger;
    private String uri = "";
    private Route route;
    private Ledger.Asked open;
    private int status;
    private String reason;

    public Account(Ledger ledger) {
        this.ledger = ledger;
    }

    @Override
    public void channelRead(ChannelHandlerContext ctx, Object message) {
        if (message instanceof HttpRequest request) {
            if (!request.uri().equals(uri)) { // clients that keep a connection ask the same again and again
                uri = request.uri();
                route = Route.of(uri);
            }
            boolean asksForADescription = request.method().equals(HttpMethod.OPTIONS);
            open = route == null || asksForADescription ? null : ledger.ask(route);
        }
        ctx.fireChannelRead(message);
    }

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        if (message instanceof HttpResponse response) {
            status = response.status().code();
            reason = response instanceof FullHttpResponse full ? refusal(full) : null;
        }
        boolean isInterim = HttpStatusClass.valueOf(status) == HttpStatusClass.INFORMATIONAL;
        if (open == null || isInterim || !(message instanceof LastHttpContent)) {
            ctx.write(message, promise);
            return;
        }
        Ledger.Asked asked = open;
        int code = status;
        String why = reason;
        open = null;
        ctx.write(
                message,
                promise.unvoid()
                        .addListener(
                                written -> ledger.answered(asked, written.isSuccess() ? code : Ledger.ABORTED, why)));
    }

    @Override
    public void channelInactive(ChannelHandlerContext ctx) {
        if (open != null) {
            ledger.answered(open, Ledger.ABORTED, null);
            open = null;
        }
        ctx.fireChannelInactive();
    }

    private static String refusal(FullHttpResponse answer) {
        if (answer.status().code() < 400 || answer.headers().contains(FROM_A_WORKER)) {
            return null;
        }
        int length = Math.min(answer.content().readableBytes(), ERROR_WITHIN_BYTES);
        int from = answer.content().readerIndex();
        Matcher error = ERROR.matcher(answer.content().toString(from, length, StandardCharsets.UTF_8));
        return error.find() ? error.group(1) : null;
    }
}
